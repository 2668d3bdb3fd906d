"""Statistics: numbers and arrays in, numbers and Measurements out. No I/O, and nothing of the areas."""
