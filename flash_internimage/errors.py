"""The exception class of mistakes that a user can fix."""


class UserError(ValueError):
    """Raised for a user's mistake: its text is one sentence with the culprit, what was expected, what came, and the fix.

    Programs print the text of this error alone; any other exception keeps its traceback. Subclasses exist only where a
    caller has to tell one mistake from another.
    """
