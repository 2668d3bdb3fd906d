"""What people look at: charts drawn as SVG, and pages made of them. No scripts from elsewhere, no external resources."""
