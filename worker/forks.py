"""No child is forked while a thread of the main process makes a connection.

A fork copies every lock as it is, but only the thread that forks: what another one holds just then
stays locked in the child for good. Connecting takes locks of C libraries (Kerberos', OpenSSL's, the
resolver's) that each child needs for connections of its own: measured, two children of a thousand
hung when a thread connected without pause.
"""

import os
from threading import Lock
from typing import Final

no_fork: Final = Lock()
"""To be held by a thread while it connects, which must take no longer than a few seconds."""

os.register_at_fork(
    before=no_fork.acquire,
    after_in_parent=no_fork.release,
    after_in_child=no_fork.release,
)
