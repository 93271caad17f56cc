"""One search from a configuration to a finished run folder. `archloom.search` and `archloom.resume`.

course.py      `search` and `resume`: start, training of the supernet, trials, in this order
opening.py     the configuration, as given or as a run folder has it, and the folder of a new run
making.py      method, strategy, estimators and loop, made from the configuration
finishing.py   the found architecture and its files      finals.py    the trainings of the verdict
result.py      what a search ends with                   process.py   a process's threads and log file
"""

from .course import resume, search
from .result import Result

__all__ = ["Result", "resume", "search"]
