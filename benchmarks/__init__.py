"""What placing costs, and events, and memory, beside NVIDIA Dynamo's router in one run."""
