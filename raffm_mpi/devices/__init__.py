"""Simulated devices: profiles, who has which, when clients can be reached, and the virtual clock. No torch, no MPI."""

from raffm_mpi.devices.clock import VirtualRound, Work, simulate
from raffm_mpi.devices.fleet import Fleet, make_fleet
from raffm_mpi.devices.profiles import DEVICE_NUMBERS, Profile, read_profiles, write_profile

__all__ = [
    "DEVICE_NUMBERS",
    "Fleet",
    "Profile",
    "VirtualRound",
    "Work",
    "make_fleet",
    "read_profiles",
    "simulate",
    "write_profile",
]
