//! S3 and EC2 against moto. Tests say `SKIPPED` where there is no moto_server.

mod ec2;
mod s3;
mod support;
