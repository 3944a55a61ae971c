"""Lines of an environment that are written while it runs: a database made of a snapshot, new secrets."""

import json

import pytest

from deploy.config import read_config
from tests.deploy.conftest import LATER, NEXT
from tests.deploy.templates import Stacks, Templates
from tests.deploy.test_templates_tasks import containers

NAME = "gamepulse-staging-database-d57c7561"
"""With the beginning of the SHA-256 of the snapshot's name."""


def origin(number: int) -> str:
    return f"{{{{resolve:secretsmanager:gamepulse/origin-header/{number}:SecretString:::}}}}"


@pytest.fixture(scope="module")
def stacks(later: Templates) -> Stacks:
    return Stacks("staging", later)


def test_the_database_is_made_of_the_snapshot_under_a_name_of_its_own(stacks: Stacks) -> None:
    has = stacks.one("RDS::DBInstance")
    assert (has["DBSnapshotIdentifier"], has["DBInstanceIdentifier"]) == ("before-the-mistake", NAME)
    # What comes with the snapshot; CloudFormation would ask for less storage, or for an older version, and be refused.
    assert not {"MasterUsername", "KmsKeyId", "StorageEncrypted", "EngineVersion", "AllocatedStorage"} & set(has)
    assert (has["MultiAZ"], has["PubliclyAccessible"], has["ManageMasterUserPassword"]) == (True, False, True)


def test_all_that_names_the_database_names_that_one(stacks: Stacks) -> None:
    told = json.dumps([one.properties for one in stacks.resources])
    assert '"gamepulse-staging-database"' not in told and ":gamepulse-staging-database/" not in told
    assert f"dbuser:{NAME}.DbiResourceId/gamepulse_service" in told
    for alarm in stacks.all("CloudWatch::Alarm"):
        for one in alarm.properties["Dimensions"]:
            assert one["Name"] != "DBInstanceIdentifier" or one["Value"] == NAME
    assert stacks.one("FIS::ExperimentTemplate")["Targets"]["database"]["ResourceArns"] == [
        f"arn:aws:rds:ap-northeast-2:111122223333:db:{NAME}"
    ]


def test_each_snapshot_has_a_name_of_its_own() -> None:
    names = {read_config(NEXT | {"DATABASE_SNAPSHOT": one}).database_name for one in ("", "one", "two", "awsbackup:job-1")}
    assert len(names) == 4
    assert all(name.startswith("gamepulse-staging-database") and len(name) <= 63 for name in names)


def test_a_snapshot_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(ValueError, match="database_snapshot is 'a b'"):
        read_config(LATER | {"DATABASE_SNAPSHOT": "a b"})


def test_the_next_secrets_stand_beside_those_that_are_in_use(stacks: Stacks) -> None:
    names = {one.name for one in stacks.all("SecretsManager::Secret")}
    for name in ("cache", "origin-header"):
        assert {one for one in names if name in one} == {f"gamepulse/{name}/1", f"gamepulse/{name}/2"}
    sent = [one.properties["DistributionConfig"]["Origins"][0] for one in stacks.all("CloudFront::Distribution")]
    assert [one["OriginCustomHeaders"][0]["HeaderValue"] for one in sent] == [origin(2)] * 2
    for one in stacks.all("ElasticLoadBalancingV2::ListenerRule"):
        [taken] = [each["HttpHeaderConfig"]["Values"] for each in one.properties["Conditions"] if "HttpHeaderConfig" in each]
        assert taken == [origin(1), origin(2)]
    told = [one["ValueFrom"] for (_, _), each in containers(stacks).items() for one in each.get("Secrets", [])]
    assert {one.rpartition("/")[2][0] for one in told if "gamepulse/cache/" in one} == {"2"}


@pytest.mark.parametrize("number", ["0", "-1", "two", ""])
def test_secrets_are_counted_from_1(number: str) -> None:
    with pytest.raises(ValueError, match=r"(secrets|SECRETS) is"):
        read_config(LATER | {"SECRETS": number})
