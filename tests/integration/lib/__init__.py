"""What the integration tests share."""
from . import images, writelog
from .conversation import (Events, Raw, Wait, differences, normalise, play,
                           same_conversation)
from .daemon import (ROOT, Daemon, Oracle, SystemOracle, Varved, build_dir,
                     program)
from .guest import (attach_guest, device_args, guest, guest_pair,
                    guest_request, wait_for_writes)
from .qmp import Qmp, QmpError, QmpTimeout

__all__ = ["ROOT", "Daemon", "Events", "Oracle", "Qmp", "QmpError",
           "QmpTimeout", "Raw", "SystemOracle", "Varved", "Wait",
           "attach_guest", "build_dir", "device_args", "differences", "guest",
           "guest_pair", "guest_request", "images", "normalise", "play",
           "program", "same_conversation", "wait_for_writes", "writelog"]
