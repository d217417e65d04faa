// Swagger UI sets styles by itself; what the content security policy refuses of them is not needed.
SwaggerUIBundle({ url: "../openapi.json", dom_id: "#swagger-ui", deepLinking: true });
