//! The least that an account must allow.

use serde_json::{Value, json};

/// An IAM policy with what this program calls and no more: machines and what stands around them may be made only with its tags, and
/// ended only if they carry them; objects below one prefix of one bucket, never overwritten by a delete of anything but checkpoints.
pub fn policy_document(remote: Option<(&str, &str)>) -> Value {
    let tagged = json!({"Null": {"aws:ResourceTag/sprint-flow:store": "false"}});
    let tagging = json!({"Null": {"aws:RequestTag/sprint-flow:store": "false"}});
    let mut statements = vec![
        json!({"Sid": "Look", "Effect": "Allow", "Resource": "*", "Action": [
            "ec2:DescribeImages", "ec2:DescribeInstances", "ec2:DescribeSecurityGroups", "ec2:DescribeSpotPriceHistory"]}),
        json!({"Sid": "LaunchTagged", "Effect": "Allow", "Condition": tagging, "Action": "ec2:RunInstances", "Resource": [
            "arn:aws:ec2:*:*:instance/*", "arn:aws:ec2:*:*:volume/*", "arn:aws:ec2:*:*:network-interface/*",
            "arn:aws:ec2:*:*:spot-instances-request/*"]}),
        json!({"Sid": "LaunchWithOwn", "Effect": "Allow", "Condition": tagged, "Action": "ec2:RunInstances", "Resource": [
            "arn:aws:ec2:*:*:security-group/*", "arn:aws:ec2:*:*:key-pair/*", "arn:aws:ec2:*:*:placement-group/*"]}),
        json!({"Sid": "LaunchFrom", "Effect": "Allow", "Action": "ec2:RunInstances", "Resource": [
            "arn:aws:ec2:*::image/*", "arn:aws:ec2:*:*:subnet/*"]}),
        json!({"Sid": "MakeTagged", "Effect": "Allow", "Condition": tagging, "Action": [
            "ec2:CreateSecurityGroup", "ec2:CreatePlacementGroup", "ec2:ImportKeyPair"], "Resource": [
            "arn:aws:ec2:*:*:security-group/*", "arn:aws:ec2:*:*:key-pair/*", "arn:aws:ec2:*:*:placement-group/*"]}),
        json!({"Sid": "MakeIn", "Effect": "Allow", "Action": "ec2:CreateSecurityGroup", "Resource": "arn:aws:ec2:*:*:vpc/*"}),
        json!({"Sid": "TagAtBirth", "Effect": "Allow", "Action": "ec2:CreateTags", "Resource": "*", "Condition": {"StringEquals": {
            "ec2:CreateAction": ["RunInstances", "CreateSecurityGroup", "CreatePlacementGroup", "ImportKeyPair"]}}}),
        json!({"Sid": "EndOwn", "Effect": "Allow", "Condition": tagged, "Resource": "*", "Action": [
            "ec2:TerminateInstances", "ec2:DeleteSecurityGroup", "ec2:DeletePlacementGroup", "ec2:DeleteKeyPair",
            "ec2:AuthorizeSecurityGroupIngress"]}),
    ];
    if let Some((bucket, prefix)) = remote {
        let below = |rest: &str| format!("arn:aws:s3:::{bucket}/{prefix}{rest}");
        statements.extend([
            json!({"Sid": "ListRemote", "Effect": "Allow", "Action": ["s3:ListBucket", "s3:ListBucketMultipartUploads"],
                "Resource": format!("arn:aws:s3:::{bucket}"), "Condition": {"StringLike": {"s3:prefix": format!("{prefix}v1/*")}}}),
            json!({"Sid": "ReadAndCreate", "Effect": "Allow", "Resource": below("v1/*"), "Action": [
                "s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]}),
            json!({"Sid": "RemoveOldCheckpoints", "Effect": "Allow", "Resource": below("v1/checkpoints/*"), "Action": "s3:DeleteObject"}),
        ]);
    }
    json!({"Version": "2012-10-17", "Statement": statements})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_without_this_programs_tags_can_be_ended_and_only_checkpoints_deleted() {
        let policy = policy_document(Some(("flow", "team/a/")));
        for statement in policy["Statement"].as_array().expect("a list") {
            let actions = statement["Action"].to_string();
            assert!(!actions.contains('*'), "{actions}");
            if actions.contains("Terminate") || actions.contains("ec2:Delete") {
                assert!(statement["Condition"]["Null"]["aws:ResourceTag/sprint-flow:store"] == "false", "{statement}");
            }
            if actions.contains("s3:DeleteObject") {
                assert_eq!(statement["Resource"], "arn:aws:s3:::flow/team/a/v1/checkpoints/*");
            }
        }
    }
}
