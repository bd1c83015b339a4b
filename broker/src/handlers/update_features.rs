//! UpdateFeatures (key 57), v0–v2.
//! - The levels of this broker are fixed (`protocol::features`): asking for the level in force succeeds, any other is refused (95). One refusal
//!   refuses all; in v0 and v1 each feature has its own error.

use kafka_wire::update_features_request::FeatureUpdateKey;
use kafka_wire::update_features_response::UpdatableFeatureResult;
use kafka_wire::{UpdateFeaturesRequest, UpdateFeaturesResponse};

use crate::protocol::{ErrorCode, features, message};

pub(super) fn handle(request: UpdateFeaturesRequest) -> UpdateFeaturesResponse {
    let mut response = UpdateFeaturesResponse::default();
    for update in &request.feature_updates {
        let mut result = message!(UpdatableFeatureResult {
            feature: update.feature.clone()
        });
        if let Err((code, reason)) = check(update) {
            result.error_code = code.code();
            result.error_message = Some(reason.as_str().into());
            if response.error_code == 0 {
                response.error_code = code.code();
                response.error_message =
                    Some(format!("the update failed for all features: {reason}").into());
            }
        }
        response.results.push(result);
    }
    response
}

fn check(update: &FeatureUpdateKey) -> Result<(), (ErrorCode, String)> {
    let name = update.feature.as_str();
    let wanted = update.max_version_level;
    let refused = |reason: String| Err((ErrorCode::InvalidUpdateVersion, reason));
    match features::find(name) {
        None => refused(format!("{name} is not a feature of this broker")),
        Some(feature) if feature.finalized == wanted => Ok(()),
        Some(feature) if !(feature.min..=feature.max).contains(&wanted) => refused(format!(
            "{name} {wanted} is not supported: levels are {} to {}",
            feature.min, feature.max
        )),
        Some(feature) => refused(format!(
            "{name} is fixed at {}: this broker neither upgrades nor downgrades it",
            feature.finalized
        )),
    }
}
