"""The page: it calls the upstream, and says what to look at."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from web import KEEPALIVE, is_exporting

from . import upstream


def index(request: HttpRequest) -> HttpResponse:
    """An ordinary view, which knows nothing of pool_telemetry."""
    told = {"milliseconds": upstream.call(), "keepalive": KEEPALIVE, "is_exporting": is_exporting()}
    return render(request, "mysite/index.html", told)
