"""What a cloud tells a machine of its own end, and the patience with a cloud that may not be there."""

from __future__ import annotations

import http.client
import logging
import math
import urllib.request
from collections.abc import Callable, Mapping
from email.message import Message

SERVICE = "http://169.254.169.254"
"""Where AWS and Google answer a machine's questions about itself. Google's name for it, `metadata.google.internal`, is
not used: outside of Google's cloud it would have to be looked up first, which may take many seconds."""

TRIES = 5
"""A cloud that has not answered so often is not this machine's: the questions take half a minute."""

ANSWER_SECONDS = 1.0
"""A metadata service is in the machine's own host and answers within milliseconds."""

logger = logging.getLogger(__name__)


class PreemptionNotice:
    """Asks one cloud when it takes this machine away, and asks no more where it is another's machine, or nobody's.

    `ask` returns when this machine ends, in seconds since the epoch, or None if it is not told to. It raises OSError or
    HTTPException where this cloud does not answer, and ValueError for an answer that is not understood. With `disabled`
    nothing is asked.
    """

    def __init__(self, ask: Callable[[], float | None], *, disabled: bool = False) -> None:
        self._ask = ask
        self._tries_left = 0.0 if disabled else TRIES  # without an end once it has answered
        self._puzzled = False

    def deadline(self) -> float | None:
        """When this machine ends, in seconds since the epoch; None if it is not told to, or nobody answers now."""
        if not self._tries_left:
            return None
        try:
            found = self._ask()
        except (OSError, http.client.HTTPException):  # nobody, too late, or cut short
            self._tries_left -= 1
            return None
        except ValueError as error:
            if not self._puzzled:
                logger.warning("this notice of the machine's metadata service is not understood: %s", error)
            self._puzzled, found = True, None
        self._tries_left = math.inf
        return found


def text_at(url: str, headers: Mapping[str, str], method: str = "GET") -> tuple[str, Message]:
    """The text that a metadata service answers, and the headers of its answer.

    Raises OSError (`HTTPError` for an answer such as 404) or HTTPException where it does not answer with a text.
    """
    request = urllib.request.Request(url, method=method, headers=dict(headers))
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
        return answer.read().decode(), answer.headers
