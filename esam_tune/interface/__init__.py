"""The Python interface: what the command line does, as functions under the same names.

Each function takes what the verb's options say, under the options' names with underscores, and the
verbs call these functions: neither has a way of its own. ``esam_tune`` itself passes the public
names on, and imports this only when one of them is asked for.
"""
