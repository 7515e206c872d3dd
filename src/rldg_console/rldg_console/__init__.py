"""The operator console: one page that shows a running cell and asks it for what a person wants."""
