"""`static`"""

from __future__ import annotations


class StaticSystem:
    name = "static"
