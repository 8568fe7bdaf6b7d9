"""Models as folders and on the Hugging Face hub: what is written, what is read, and what is checked."""
