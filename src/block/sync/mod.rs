//! Catching up: SHAKEHAND, claims, and pulling what is missing from several peers at once.
