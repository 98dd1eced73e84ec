"""The list of pages, in the order of their links."""

from __future__ import annotations

from hub_services.web.pages.gpus import gpus_page
from hub_services.web.pages.handlers import LivePage
from hub_services.web.pages.plan import plan_page
from hub_services.web.pages.queue import queue_page
from hub_services.web.pages.reservations import reservations_page

PAGES = {
    page.name: page
    for page in (
        LivePage(
            "queue",
            "Queue",
            "Who waits and in which order, what is free, and when more will be.",
            lambda board, viewer, service: queue_page(board, viewer),
            "queue_figures.html",
            parts=("queue_figures.html", "queue_waits.html", "queue_ahead.html", "queue_runs.html"),
        ),
        LivePage(
            "gpus",
            "GPUs",
            "Every node and GPU, who is on it, and what is out of service.",
            lambda board, viewer, service: gpus_page(board, viewer),
            "gpus.html",
            administrators=True,
        ),
        LivePage(
            "reservations",
            "Reservations",
            "GPUs that are kept for some people at some time.",
            lambda board, viewer, service: reservations_page(board, viewer),
            "reservations.html",
            around="reserve.html",
        ),
        LivePage(
            "plan",
            "What if",
            "The lab's own past on other hardware or by other rules, beside today's.",
            plan_page,
            "plan_now.html",
            around="plan.html",
            administrators=True,
        ),
    )
}
