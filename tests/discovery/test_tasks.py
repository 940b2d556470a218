"""Background tasks: none is forgotten, none dies unheard."""

import asyncio

from p2pmq.discovery.tasks import BackgroundTasks
from tests.discovery.kit import until


async def test_a_task_that_dies_is_reported_to_the_loop_and_the_others_live() -> None:
    reports: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))

    async def fail() -> None:
        raise ZeroDivisionError

    async def live() -> None:
        await asyncio.Event().wait()

    tasks = BackgroundTasks()
    tasks.spawn(live(), name="the living")
    tasks.spawn(fail(), name="the failing")
    await until(lambda: bool(reports))
    assert isinstance(reports[0]["exception"], ZeroDivisionError)
    assert "the failing" in str(reports[0]["message"])
    assert len(tasks) == 1
    await tasks.close()
    assert len(tasks) == 0
    assert len(reports) == 1
