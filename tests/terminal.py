"""What a terminal shows after it was sent some text: the sequences that rich writes are obeyed."""

import fcntl
import os
import pty
import re
import struct
import termios
import time

_SEQUENCE = re.compile(r"(\x1b\[[?0-9;]*[a-zA-Z]|\r\n|\n|\r)")


def screen_after(written):
    """Lines on the screen, colours and the like still in them; empty ones at the end left out."""
    lines, at = [""], 0
    for part in _SEQUENCE.split(written):
        if part in ("\n", "\r\n"):
            at += 1
            lines += [""] * (at + 1 - len(lines))
        elif re.fullmatch(r"\x1b\[\d*A", part):
            at = max(0, at - int(part[2:-1] or 1))
        elif part == "\x1b[2K":
            lines[at] = ""
        elif part and part != "\r" and not part.startswith("\x1b[?"):
            lines[at] += part
    while lines and not plain(lines[-1]):
        lines.pop()
    return lines


def plain(line):
    """A line without colours."""
    return _SEQUENCE.sub("", line).rstrip()


def run_in_terminal(command, *, columns, lines, **options):
    """Run a command in a terminal of this size; its exit code, and what it wrote with the seconds.

    Args:
        command: program and arguments.
        columns: of the terminal.
        lines: of it.
        options: ``env`` and ``cwd`` of the command.
    """
    process, terminal = pty.fork()
    if process == 0:
        try:
            os.chdir(options.get("cwd", "."))
            os.execvpe(command[0], command, options.get("env", os.environ))
        finally:
            os._exit(127)
    size = struct.pack("HHHH", lines, columns, 0, 0)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
    started, pieces = time.monotonic(), []
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the command has ended
            break
        if not piece:
            break
        pieces.append((time.monotonic() - started, piece))
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), pieces
