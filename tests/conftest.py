"""Settings for all tests."""

from hypothesis import settings

# The machines are shared: work is counted, never timed.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
