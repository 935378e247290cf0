"""The engine of the client: what decides when and how requests are sent."""
