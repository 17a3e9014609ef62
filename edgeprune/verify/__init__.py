"""What is claimed of the slim model, and the proof."""
