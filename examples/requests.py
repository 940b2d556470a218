"""A shop asks for prices; two nodes answer, one of them goes, and one price is not known."""

import asyncio

import p2pmq


def node(name: str) -> p2pmq.Node:
    """A node that keeps nothing on disk: requests need none."""
    return p2pmq.Node(name, mesh="example-requests", store="memory", leaf=name == "shop")


PRICES = {"gold": 71.5, "silver": 0.83}


async def price(request: p2pmq.Request) -> float:
    """Answer one request; what this raises reaches the caller."""
    return PRICES[request.body]


async def main() -> None:
    """Ask, while who answers comes and goes."""
    async with node("bank") as bank, node("shop") as shop:
        bank.respond("prices", price, concurrency=4)
        async with node("mint") as mint:
            mint.respond("prices", price)
            answers = await asyncio.gather(*(shop.request("prices", "gold") for _ in range(10)))
            print("ten answers:", answers)
        print("one answers still:", await shop.request("prices", "silver"))
        try:
            await shop.request("prices", "tin", timeout=2)
        except p2pmq.RemoteError as error:
            print(f"no price: {error.node} raised {error.kind}: {error.text}")
        try:
            await shop.request("weather")
        except p2pmq.NoResponderError:
            print("nobody answers to 'weather'")


asyncio.run(main())
