"""Exception class for errors that the user can fix."""


class UserError(ValueError):
    """Raised for a user's mistake; the message is one sentence: who, what was expected, what was given, how to fix it.

    Programs print the message without a traceback; any other exception keeps its traceback. Subclasses exist only where a
    caller has to distinguish them.
    """
