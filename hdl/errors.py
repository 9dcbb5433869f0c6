"""The errors of builds and checks of the RTL."""


class HdlError(Exception):
    """An error for the user: what failed, on what, why, what to do."""


class ToolchainError(HdlError):
    """A tool is missing or does not work."""


class BuildError(HdlError):
    """A simulation or bitstream was not built."""


class BenchError(HdlError):
    """A bench failed or did not run."""
