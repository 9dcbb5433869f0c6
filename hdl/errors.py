"""The base of what can go wrong while gates are built or checked."""


class HdlError(Exception):
    """One sentence for the user: what is wrong, where, and how to mend it."""


class ToolchainError(HdlError):
    """A tool that the build needs is missing or does not work."""


class BuildError(HdlError):
    """The sources did not become a simulation."""


class BenchError(HdlError):
    """A bench ran and failed, or did not run at all."""
