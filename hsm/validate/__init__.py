"""What a PKCS#11 token can and cannot do for the rig: probes, a verdict, nothing left behind.

| module | purpose |
| --- | --- |
| `cryptoki_calls` | the standard's C functions, called one to one |
| `own_objects` | the tag on everything that a validation makes, and the removal of what bears it |
| `probing` | what a probe is, what it finds |
| `token` | what a probe works with: a session, keys of its own |
| `probes/` | the probes, a file for each field |
| `worker` | the child process that calls the module |
| `run` | the parent: starts workers, survives the module's crashes, collects findings |
| `judge` | from findings to the verdict: fit, fit with limits, unfit |
| `report` | a validation as JSON, and its schema |
"""
