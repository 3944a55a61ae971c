"""Deploys an environment in the right order, and destroys one."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from deploy.account import REGIONS, Account, check, run_task, smoke, tell
from deploy.config import EDGE_REGION, REGION
from deploy.push import push_images
from stack.settings import CHECKOUT, Problem, read_settings
from stack.web import node_command, npm_command

CDK_LIMIT_S = 3 * 3600  # a database in two zones takes half an hour, a distribution ten minutes
BOOTSTRAP_STACK = "CDKToolkit"
BEFORE_MIGRATION, AFTER_MIGRATION = ("network", "data", "jobs"), ("services", "edge", "operations")

STACKS = dict.fromkeys(("images", *BEFORE_MIGRATION, *AFTER_MIGRATION), REGION) | {"edge": EDGE_REGION}
"""Where each is, in the order in which they are made."""

type Cdk = Callable[[list[str]], None]


def cdk_command(folder: Path) -> Cdk:
    """The CDK's own program, on the templates in `folder`."""
    cache = read_settings().cache
    node = node_command(cache)
    here = Path(__file__).parent
    program = here / "node_modules" / "aws-cdk" / "bin" / "cdk"
    environment = os.environ | {
        "PATH": f"{node.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "CDK_DISABLE_CLI_TELEMETRY": "true",
    }

    def run(arguments: list[str]) -> None:
        if not program.exists():
            tell("Installing the CDK's program (20 s)")
            _run([*npm_command(cache), "ci", "--no-audit", "--no-fund"], here, environment)
        _run([str(node), str(program), "--app", str(folder), *arguments], CHECKOUT, environment)

    return run


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, timeout=CDK_LIMIT_S, check=False)
    if done.returncode:
        raise Problem(f"`{' '.join(command[1:])}` failed.")


def deploy(account: Account, cdk: Cdk) -> None:
    """From an empty account, or from an earlier version. It can be run again after any failure. Raises Problem."""
    check(account)
    for region in REGIONS:
        if not account.stack_exists(BOOTSTRAP_STACK, region):
            tell(f"Preparing {region} for the CDK")
            cdk(["bootstrap", f"aws://{account.config.account}/{region}"])
    _deploy(account, cdk, ("images",))
    push_images(account)
    _deploy(account, cdk, BEFORE_MIGRATION)
    # The version that runs works with the new tables, too: so they come first.
    tell("Migrating the database")
    run_task(account, "migrate", "migrate")
    _deploy(account, cdk, AFTER_MIGRATION)
    tell("Asking it")
    smoke(account.config)
    tell(f"{account.config.version} runs: https://{account.config.play}, https://{account.config.grafana}")


def _deploy(account: Account, cdk: Cdk, parts: tuple[str, ...]) -> None:
    for part in parts:
        name = account.config.stack_name(part)
        tell(f"Stack {name}")
        cdk(["deploy", name, "--exclusively", "--require-approval", "never", "--method", "direct"])


def destroy(account: Account, cdk: Cdk) -> None:
    """All that has no data. Production is protected: whoever means it takes the protection away by hand. Raises Problem."""
    if account.config.is_production:
        raise Problem("Production is not destroyed by a command. docs/deploy.md says what has to be done by hand.")
    check_is_ours(account)
    for part in reversed(STACKS):
        name = account.config.stack_name(part)
        tell(f"Destroying {name}")
        cdk(["destroy", name, "--exclusively", "--force"])
    tell("What has data is still there: buckets, images, files, the key, secrets, backups. `make purge` lists it and takes it away")


def check_is_ours(account: Account) -> None:
    """Raises Problem when the credentials are of another account."""
    found = account.client("sts").get_caller_identity()["Account"]
    if found != account.config.account:
        raise Problem(f"The credentials are of the account {found}; {account.config.environment} is in {account.config.account}.")
