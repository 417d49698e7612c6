"""Output for the user and for scripts. rich is used here, and nowhere below.

- ``console``: prints commands as the user can type them
- ``tables``: tables that fit, the ranking
- ``long_table``: prints thousands of rows quickly
- ``live``: the table, or log lines, of a running sweep
- ``status``: prints `sweeper status`
- ``plan``: prints `sweeper check`
- ``quiet``: sends what Ray logs and prints in the driver to a file
- ``result``: the summary at the end of a sweep
- ``faults``: faults of a space file or configuration, errors, a check in progress
- ``findings``: findings of the dataset doctor and of the machine doctor
- ``repairs``: what a repair of a dataset changed
- ``as_json``: a sweep and its trials as plain types
"""
