"""The main job: a real model taken through its whole life on real data, over real HTTP, in about a minute."""
