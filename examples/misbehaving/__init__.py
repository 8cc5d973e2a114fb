"""HTTP/1.1 servers on loopback that misbehave on purpose, and keep exact books of what they did.

The path of a request selects the behaviour (the table is in `_behaviours.py`). Standard library only; trustme
makes the certificate when TLS is asked for.
"""

from ._books import Books, IdleClose
from ._connection import Connection
from ._process import ServerProcess
from ._proxy import Proxy
from ._server import Server
from ._socks import SocksProxy

__all__ = ["Books", "Connection", "IdleClose", "Proxy", "Server", "ServerProcess", "SocksProxy"]
