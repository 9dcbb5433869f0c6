"""The tape drive."""
