"""What holds for all tests."""

import torch

# The tests' networks are so small that threads cost more than they give, and on a busy machine, where threads
# wait for one another, ten times more.
torch.set_num_threads(1)
