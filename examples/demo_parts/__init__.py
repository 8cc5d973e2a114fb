"""The parts of demo.py: the stage and its scenes, and what is shown of them."""
