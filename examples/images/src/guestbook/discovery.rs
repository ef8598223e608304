//! Finding a service through the variables that the orchestrator puts into a container.

use crate::program::Environment;

/// The address of a service, as `host:port`; the error tells the user what is missing and why.
pub fn address(service: &str, environment: &Environment<'_>) -> Result<String, String> {
    let prefix = service.to_uppercase().replace('-', "_");
    let variable = |suffix: &str| {
        let name = format!("{prefix}_SERVICE_{suffix}");
        environment(&name).filter(|value| !value.is_empty()).ok_or_else(|| {
            format!(
                "{name} is not set: create the service {service} before this pod, so that its containers start with it"
            )
        })
    };
    Ok(format!("{}:{}", variable("HOST")?, variable("PORT")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_found_by_its_variables_or_missed_by_name() {
        let both = |name: &str| match name {
            "REDIS_MASTER_SERVICE_HOST" => Some("10.0.0.7".to_owned()),
            "REDIS_MASTER_SERVICE_PORT" => Some("6379".to_owned()),
            _ => None,
        };
        assert_eq!(address("redis-master", &both), Ok("10.0.0.7:6379".to_owned()));
        let error = address("redis-slave", &both).unwrap_err();
        assert!(error.starts_with("REDIS_SLAVE_SERVICE_HOST is not set"), "{error}");
        let empty = |name: &str| both(name).map(|_| String::new());
        assert!(address("redis-master", &empty).is_err());
    }
}
