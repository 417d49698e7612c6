"""What each command does, a module per kind. Nothing heavy is imported before a command runs."""
