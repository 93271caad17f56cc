"""One search from a configuration to a finished run folder. `archloom.search` and `archloom.resume`.

opening.py    the configuration, as given or as a run folder has it, and the folder of a new run
making.py     method, strategy, estimators and loop, made from the configuration
course.py     `search`, `resume` and `verdict`: start, the supernet's training, trials, end
changing.py   other constraints in a run that goes on
feasibility.py  whether the constraints can be kept at all
finishing.py  the found architecture and its files, result and report
finals.py     the trainings of the verdict
result.py     what a search ends with
process.py    a process's threads and log file
"""

from .course import resume, search, search_or_resume, verdict
from .result import Result

__all__ = ["Result", "resume", "search", "search_or_resume", "verdict"]
