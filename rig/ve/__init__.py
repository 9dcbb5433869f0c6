"""The virtualization engine."""
