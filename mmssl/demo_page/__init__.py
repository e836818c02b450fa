"""The local page of ``mmssl demo``: prompts on images, and masked autoencoders."""
