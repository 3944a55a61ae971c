"""What templates say and the emulated AWS does not give back, and why. The tests of the templates read it: test_mutants.py shows it."""

NO_PLACE = "moto has no place for it"
NOT_ANSWERED = "moto keeps it and does not answer it"
NOT_TOLD = "AWS does not tell it either"

LOST = {
    "AWS::ApplicationAutoScaling::ScalableTarget": {"Tags": NO_PLACE},
    "AWS::Budgets::Budget": {
        "NotificationsWithSubscribers[].Subscribers": "moto has no call for it",
        "ResourceTags": "moto has no call for it",
    },
    "AWS::EC2::NetworkAclEntry": {"Icmp": NOT_ANSWERED},
    "AWS::EC2::SecurityGroupEgress": {"Description": f"of prefix lists: {NO_PLACE}"},
    "AWS::EC2::SecurityGroupIngress": {"Description": f"of prefix lists: {NO_PLACE}"},
    "AWS::EC2::FlowLog": {"LogDestination": "moto takes the folder for a part of the bucket's name, so only the bucket is told"},
    "AWS::ECS::Service": {
        "AvailabilityZoneRebalancing": NO_PLACE,
        "DeploymentConfiguration": NO_PLACE,
        "EnableECSManagedTags": NO_PLACE,
        "EnableExecuteCommand": NO_PLACE,
        "HealthCheckGracePeriodSeconds": NO_PLACE,
    },
    "AWS::ElastiCache::ReplicationGroup": {
        "CacheSubnetGroupName": NO_PLACE,
        "EngineVersion": NO_PLACE,
        "NumCacheClusters": NO_PLACE,
        "SecurityGroupIds": NO_PLACE,
    },
    "AWS::ElastiCache::User": {"AuthenticationMode.Passwords": NOT_TOLD},
    "AWS::RDS::DBInstance": {
        "DatabaseInsightsMode": NO_PLACE,
        "DeleteAutomatedBackups": "it is told when the instance is deleted",
        "EnablePerformanceInsights": NO_PLACE,
        "PerformanceInsightsKMSKeyId": NO_PLACE,
        "PerformanceInsightsRetentionPeriod": NO_PLACE,
    },
    "AWS::ServiceDiscovery::PrivateDnsNamespace": {"Vpc": NO_PLACE},
}
