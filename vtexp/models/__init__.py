"""Model code and checkpoint loading. torch and transformers live here, imported only when needed."""
