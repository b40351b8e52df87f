"""What is kept on disk: models, checkpoints, the folder of a run; safetensors."""
