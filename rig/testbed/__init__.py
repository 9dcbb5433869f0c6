"""Open a lab: state folder, boards, key managers, drives, node."""
