"""What the integration tests share."""
from .conversation import (Events, Raw, Wait, differences, normalise, play,
                           same_conversation)
from .daemon import (ROOT, Daemon, Oracle, SystemOracle, Varved, build_dir,
                     program)
from .qmp import Qmp, QmpError, QmpTimeout

__all__ = ["ROOT", "Daemon", "Events", "Oracle", "Qmp", "QmpError",
           "QmpTimeout", "Raw", "SystemOracle", "Varved", "Wait", "build_dir",
           "differences", "normalise", "play", "program", "same_conversation"]
