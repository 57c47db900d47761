"""What a run writes is for its owner only: transcripts are health data, and so is what is made of them."""

import os


def keep_files_private() -> int:
    """Give everything that this process makes from now on no rights for group and others.

    The processes of a cluster that was joined call it, too: they were started with a file mask of the cluster's.

    Returns:
        The file mask before, for `os.umask`.
    """
    return os.umask(0o077)
