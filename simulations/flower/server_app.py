"""The ServerApp of this Flower app: what is installed as lianxin, and nothing of its own."""

from lianxin.simulations.flower_runs import server_app as app

__all__ = ["app"]
