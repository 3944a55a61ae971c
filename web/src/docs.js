// A file of its own: the page's policy allows no inline script.
SwaggerUIBundle({ url: "/docs/schema/openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null });
