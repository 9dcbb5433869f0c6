"""Test, attack and grade a PKCS#11 token; leave nothing behind.

| module | purpose |
| --- | --- |
| `raw_pkcs11` | the standard's C functions, called one to one |
| `return_codes` | the return codes and their names |
| `tagged_objects` | the tag on objects of a validation, and the removal of tagged objects |
| `attempt` | a PKCS#11 call that may be refused, and its outcome |
| `findings` | probes, their answers and statuses |
| `session` | the token under test: its session, test keys and templates |
| `probes/` | the probes, one file for each area |
| `worker` | the child process that calls the module |
| `second_process` | another child process, which only counts objects |
| `run` | the parent process: starts workers, survives crashes of the module, collects findings |
| `verdict` | the verdict on the findings: fit, fit with limits, unfit |
| `report` | a validation as JSON, and its schema |
"""
