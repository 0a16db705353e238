"""Protocol skins: native HTTP, OpenAI, Open Inference Protocol over HTTP and gRPC. They translate, nothing more."""
