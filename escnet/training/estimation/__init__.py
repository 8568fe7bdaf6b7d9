"""What a training is going to cost, counted without numbers in its tensors: work, memory, time, network, storage."""
