"""Start a stand-in; commands of its user come in, one JSON line each, on stdin."""

from __future__ import annotations

import argparse
import json
import sys

import mm_test_adapters
import zmq

from tests.microscope.stand_in.bridge import JavaObject, Registry, Server, method
from tests.microscope.stand_in.core import Core
from tests.microscope.stand_in.engine import (
    Acquisition,
    Hook,
    Notifications,
    Processor,
)
from tests.microscope.stand_in.studio import Gui


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--exposure-ms", type=float, default=5.0)
    args = parser.parse_args()
    adapters = str(mm_test_adapters.device_adapter_path())
    core = Core(
        adapters,
        f"{adapters}/MMConfig_demo.cfg",
        size_px=args.size,
        exposure_ms=args.exposure_ms,
    )
    context, registry, gui = zmq.Context(), Registry(), Gui(core)
    register(context, registry, core, gui)
    server = Server(context, registry, args.port, is_main=True)
    print(json.dumps({"port": server.port}), flush=True)
    for line in sys.stdin:
        answer = obey(json.loads(line), core, gui, server, registry)
        print(json.dumps({"answer": answer}), flush=True)


def register(context: zmq.Context, registry: Registry, core: Core, gui: Gui) -> None:
    remote = "org.micromanager.remote"

    def factory(_core: JavaObject) -> JavaObject:
        def create(directory, name, show, queue, debug) -> JavaObject:
            acquisition = Acquisition(context, core, gui)
            gui.acquisitions.append(acquisition)
            return acquisition.as_java()

        text = "java.lang.String"
        return JavaObject(
            f"{remote}.RemoteAcquisitionFactory",
            [
                method(
                    "createAcquisition",
                    create,
                    text,
                    text,
                    "boolean",
                    "int",
                    "boolean",
                    returns=f"{remote}.RemoteAcquisition",
                )
            ],
        )

    def hash_map() -> JavaObject:
        values: dict[str, object] = {}
        put = method("put", values.__setitem__, *["java.lang.Object"] * 2)
        return JavaObject("java.util.HashMap", [put], target=values)

    acq = f"{remote}.RemoteAcquisition"
    registry.constructors |= {
        "mmcorej.CMMCore": ((), core.as_java),
        "org.micromanager.Studio": ((), gui.as_java),
        "java.util.HashMap": ((), hash_map),
        f"{remote}.RemoteAcquisitionFactory": (("mmcorej.CMMCore",), factory),
        f"{remote}.RemoteImageProcessor": ((), lambda: Processor(context).as_java()),
        f"{remote}.RemoteAcqHook": ((acq,), lambda a: Hook(context, a).as_java()),
        f"{remote}.RemoteNotificationHandler": (
            (acq,),
            lambda a: Notifications(context, a).as_java(),
        ),
    }


def obey(command, core: Core, gui: Gui, server: Server, registry: Registry):
    """Do what the user in front of the window does, or answer a test's question."""
    verb, args = command["do"], command.get("args", [])
    if verb == "core":
        name, *rest = args
        value = getattr(core.mmc, name)(*rest)
        return value if isinstance(value, (int, float, str)) else None
    if verb == "live":
        return gui.set_live(*args)
    if verb == "snap":
        return gui.snap()
    if verb == "mda":
        return gui.mda(**args)
    if verb == "mda log":
        return gui.mda_log
    if verb == "abort":
        return gui.acquisitions[-1].abort()
    if verb == "lose an image":
        gui.loses_the_next_image = True
        return None
    if verb == "calls":
        return sum(s.n_calls for s in server.servers)
    if verb == "objects":
        return len(registry)
    if verb == "ports":
        return len(server.servers)
    raise ValueError(verb)


main()
