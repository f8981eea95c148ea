"""The process: its clock, event loop, timers, random bytes and forks."""
